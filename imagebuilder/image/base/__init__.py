"""Examining a base image before it is believed, and opening it for builds."""
