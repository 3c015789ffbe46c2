"""Archives: files to series to volumes; the catalogue, the vectors, the search."""
