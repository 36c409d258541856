"""Any existing PostgreSQL dump, whoever made it: what it holds, whether it is whole, and what a restore brings back."""
