"""The cluster's gateway: lets the LAN out through this node's uplink, only while somebody needs it.

Runs on the node, on Python 3.9 (Bullseye) or newer, with nothing but the standard library. One process,
``piimg-gateway watch``, owns everything that is changed; the other commands ask it over a socket.
"""
