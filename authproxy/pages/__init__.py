"""
Portero's own pages under ``/.portero/``: login, callback, logout, whoami, token, keys, back-channel logout,
results.

They turn requests into questions for ``authproxy.identity`` and answers into HTTP. They refuse to know sockets and
policies' rules; whether a request may be asked at all was decided by the gate (tenant known and not disabled).
"""
