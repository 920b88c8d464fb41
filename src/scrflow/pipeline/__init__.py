"""What Snakemake needs: the project (configs resolved and cross-checked), jobs, and what results came from."""
