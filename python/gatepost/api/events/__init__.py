"""Generated from proto/ by tools/protos.py; do not edit. Imported by control/, client/ and the supervisor's merge only."""
