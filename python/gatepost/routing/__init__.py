"""Rule set → routes. Pure: no I/O, no clock. `decide` is what live mail, explain and dry runs all call."""
