"""Who may see and reach whom. Today: everyone in a tenant sees everyone.

visibility   the seam the netmap engine asks: class of a device, class sees class, packet filter
"""
