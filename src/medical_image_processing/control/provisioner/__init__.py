"""Provisioning as a reconcile loop: observe, plan, apply (laws P1 to P7)."""
