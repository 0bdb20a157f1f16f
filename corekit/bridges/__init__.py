"""After-commit bridges to the database libraries that corekit knows.

Each module imports its library; `corekit.transactions` imports it for objects of that library only.
"""
