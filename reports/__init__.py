"""reports: code that makes an evaluation readable; its outputs never live here."""
