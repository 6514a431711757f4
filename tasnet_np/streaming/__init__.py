"""The network hop by hop, with carried state: what it gives is exactly the offline output."""
