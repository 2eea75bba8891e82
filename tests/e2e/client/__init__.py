"""Clients of the application during a move: one writes bookings, one reads, and what they saw is judged against the database.

python -m client run --url http://app.demo.test:3000 --hosts-file F --rate 20 --readers 5/s --log DIR --seconds 600
python -m client judge --log DIR --dsn 'host=… user=postgres dbname=booking'
"""
