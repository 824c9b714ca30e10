"""The math of layers, dense and of experts, behind two interfaces with an implementation for each kind of device."""
