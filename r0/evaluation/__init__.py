"""Measures runs against judgements and tests differences from the first stage for significance."""
