"""How long steps take: measured, fitted, shown as shares and traces."""
