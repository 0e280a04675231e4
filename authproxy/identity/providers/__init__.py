"""
What Portero asks OpenID Providers, and how: documents, keys, codes, tokens. All they say is hostile until verified.

Refuses to know sessions and requests.
"""
