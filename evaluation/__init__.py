"""evaluation: the judge: scores of captions against human references, behind `capt-eval`. Imports no torch."""
