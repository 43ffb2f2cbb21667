from dynat.cli import main

main()
