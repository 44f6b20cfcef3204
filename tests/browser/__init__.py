"""The report and the web console in a real browser: skipped where there is no Chromium."""
