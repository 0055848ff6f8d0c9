"""Programs that make what r0 ships; nothing at run time imports them."""
