"""The wire format: `paceline.proto`, its committed stubs, and `generate.py`, which makes and checks them."""
