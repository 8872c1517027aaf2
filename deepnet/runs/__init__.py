"""Many runs: which are asked for, their order and processes, what the evidence lacks, and verification."""
