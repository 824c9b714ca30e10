"""Divides a model between ranks, and connects ranks while they compute. Model families do not depend on it."""
