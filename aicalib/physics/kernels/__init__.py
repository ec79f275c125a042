"""Time of each kind of kernel by shape: an ideal time from the datasheet, times a surface fitted to timings."""
