"""ENFORCE in Kong: one small module a plugin. None yet; they will share the gate of the proxy."""
