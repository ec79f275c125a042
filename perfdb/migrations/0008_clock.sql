-- A run during which the wall clock jumped is in doubt as a whole.
INSERT INTO decisive_flags VALUES ('clock_jumped', 'run');
