"""Tasks a reference model is trained and measured on, one file per task; `_contract.py` says what a file provides."""
