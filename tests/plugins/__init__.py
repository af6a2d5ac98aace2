"""Plug-ins: real distributions, installed and used from outside."""
