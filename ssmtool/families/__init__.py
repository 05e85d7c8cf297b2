"""One file per checkpoint family: the only place in ssmtool that knows tensor names."""
