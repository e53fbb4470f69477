"""What the gateway is measured beside, each set up as those who know it would."""
