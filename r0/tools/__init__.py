"""Programs for set-up and for creating shipped files; not imported at run time."""
