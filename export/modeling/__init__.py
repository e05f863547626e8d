"""The LEO and LEO-MINI networks in torch, as the exporter traces them."""
