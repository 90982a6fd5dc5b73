"""Configuration, selection policies, wiring, the HTTP ingress and the command line."""
