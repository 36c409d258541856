"""Telling people, and the watcher that watches us."""

from keepwell.notify.channels import ChannelOutcome, Delivery, channel_names, send
from keepwell.notify.dead_mans_switch import ping_dead_mans_switch
from keepwell.notify.message import Message, render_body

__all__ = ["ChannelOutcome", "Delivery", "Message", "channel_names", "ping_dead_mans_switch", "render_body", "send"]
