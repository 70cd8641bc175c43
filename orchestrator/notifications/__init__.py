"""Webhooks and mail: targets, deliveries, senders."""
