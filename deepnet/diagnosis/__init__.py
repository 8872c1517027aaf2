"""Why a network does not learn: what is measured on a copy of it, the rules that judge it, and the cures tried."""
