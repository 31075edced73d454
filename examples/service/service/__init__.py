"""A service that highlights source code."""

GREETING = "hello from version 1"
