CREATE TABLE monthly_sales_summary AS
    WITH sold AS (
        SELECT i."InvoiceId", i."CustomerId", i."Total", to_char(i."InvoiceDate", 'YYYY-MM') AS month,
            (SELECT sum("Quantity") FROM "InvoiceLine" l WHERE l."InvoiceId" = i."InvoiceId") AS tracks
        FROM "Invoice" i
    )
    SELECT month::varchar AS year_month, count(*)::integer AS total_invoices, sum("Total")::decimal AS total_revenue,
        sum(tracks)::integer AS total_tracks_sold, avg("Total")::decimal AS average_invoice_value,
        count(DISTINCT "CustomerId")::integer AS unique_customers
    FROM sold GROUP BY month;

CREATE TABLE top_music_charts AS
    WITH line AS (
        SELECT t."TrackId", t."Name", b."AlbumId", b."Title", a."ArtistId", a."Name" AS artist, l."Quantity" AS num,
            l."UnitPrice" * l."Quantity" AS revenue
        FROM "InvoiceLine" l
        JOIN "Track" t USING ("TrackId")
        JOIN "Album" b USING ("AlbumId")
        JOIN "Artist" a ON a."ArtistId" = b."ArtistId"
    ), item AS (
        SELECT 'top_tracks' AS chart, "TrackId" AS id, "Name" AS name, sum(revenue) AS revenue, sum(num)::numeric AS weight
        FROM line GROUP BY 2, 3
        UNION ALL
        SELECT 'top_albums', "AlbumId", "Title", sum(revenue), sum(revenue) FROM line GROUP BY 2, 3
        UNION ALL
        SELECT 'top_artists', "ArtistId", artist, sum(revenue), sum(revenue) FROM line GROUP BY 2, 3
    ), ranked AS (
        SELECT *, row_number() OVER (PARTITION BY chart ORDER BY weight DESC, name, id) AS place FROM item WHERE weight > 0
    )
    SELECT chart::varchar AS chart_type, place::integer AS rank_position, id::integer AS item_id, name::varchar AS item_name,
        revenue::decimal AS total_revenue
    FROM ranked WHERE place <= 10;
