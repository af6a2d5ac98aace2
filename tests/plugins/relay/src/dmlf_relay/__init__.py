"""A plug-in of dmlf with one thing of each kind."""
