"""
ENFORCE in Kong: one small module a plugin. Empty until the gate that the plugins share has landed with its first edge.
"""
