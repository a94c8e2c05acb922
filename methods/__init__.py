"""The distillation methods, one file each, and the catalog that finds them.

Files that start with an underscore are not methods: they hold code that several methods share, and the code that reads
method files and keeps plug-ins from changing what others rely on. Importing this package imports no torch.
"""

from methods._code import Code, code_of
from methods.catalog import Method, by_family, catalog, own_files

__all__ = ["Code", "Method", "by_family", "catalog", "code_of", "own_files"]
