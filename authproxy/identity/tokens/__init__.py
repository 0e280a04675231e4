"""
Credentials that a caller shows: tokens of providers, tokens and keys of Portero's own, and what they are bound to.

Each source knows one form and refuses every other; ``callers`` chooses among them.
"""
