"""What is kept of a study, and where: objects, their names, leases, working copies, folders, records."""
