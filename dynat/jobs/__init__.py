"""What the rules of the DAG and the commands a person types both do: read files, work, write files."""
