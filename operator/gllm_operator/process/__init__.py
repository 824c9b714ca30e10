"""The operator's process: settings, logs, leader election, kopf's handlers, health and metrics over HTTP."""
