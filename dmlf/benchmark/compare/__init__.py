"""What two tables of results agree in: two machines, or two revisions on one machine."""
