"""Fine-tuning: data read and checked, adapters or whole models trained, what was gained and lost reported."""
