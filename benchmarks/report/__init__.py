"""Results, and what is made of them: tables, plots, goals."""
