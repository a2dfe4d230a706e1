"""The library under the command line: no printing, no argv; problems are raised as `NanochatError`."""
