"""The report on the custody of keys: a page to read, tables to sort, documents for programs. Pure: values to text."""
