"""What an operator watches the gateway with: rules, dashboard, references."""
