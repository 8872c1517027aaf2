"""How each claim of the report is judged: rules, intervals, the ledger."""
