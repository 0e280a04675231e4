"""
Question 2: who is calling?

``callers`` looks at the form of a credential and asks the one source that knows it: ``tokens`` what programs show,
``sessions`` what browsers bring. ``providers`` asks the tenants' OpenID Providers, ``shared`` holds what replicas agree
on.
"""
