"""The cluster's gateway: it forwards the LAN through this node's uplink, only while that is needed.

It runs on the node, on Python 3.9 (Bullseye) or newer, with only the standard library. One process,
``piimg-gateway watch``, makes all changes; the other commands send it requests over a socket.
"""
