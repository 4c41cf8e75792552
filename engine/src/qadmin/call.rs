//! A statement with its values: what is run and what is shown are made from the same thing.

use skytide_sql::ident::quote_literal;
use tokio_postgres::types::ToSql;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Param {
    Text(Option<String>),
    Texts(Vec<String>),
    Integer(i32),
    Bigint(i64),
    Boolean(bool),
}

impl Param {
    pub fn text(text: impl ToString) -> Param {
        Param::Text(Some(text.to_string()))
    }

    /// `null` where there is none.
    pub fn optional(text: Option<impl ToString>) -> Param {
        Param::Text(text.map(|text| text.to_string()))
    }

    fn as_sql(&self) -> &(dyn ToSql + Sync) {
        match self {
            Param::Text(value) => value,
            Param::Texts(values) => values,
            Param::Integer(value) => value,
            Param::Bigint(value) => value,
            Param::Boolean(value) => value,
        }
    }

    fn literal(&self) -> String {
        match self {
            Param::Text(None) => "null".to_owned(),
            Param::Text(Some(value)) => quote_literal(value),
            Param::Texts(values) => {
                let values: Vec<String> = values.iter().map(|value| quote_literal(value)).collect();
                format!("array[{}]::text[]", values.join(", "))
            }
            Param::Integer(value) => value.to_string(),
            Param::Bigint(value) => value.to_string(),
            Param::Boolean(value) => value.to_string(),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// With `$1`, `$2` … for the values, and no other dollar.
    pub sql: &'static str,
    pub params: Vec<Param>,
}

impl Call {
    pub fn new(sql: &'static str, params: impl Into<Vec<Param>>) -> Call {
        Call {
            sql,
            params: params.into(),
        }
    }

    pub fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params.iter().map(Param::as_sql).collect()
    }

    /// As somebody would type it into psql.
    pub fn shown(&self) -> String {
        let mut pieces = self.sql.split('$');
        let mut shown = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let digits = piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len());
            let (number, rest) = piece.split_at(digits);
            let place = number
                .parse::<usize>()
                .ok()
                .and_then(|number| number.checked_sub(1));
            match place.and_then(|place| self.params.get(place)) {
                Some(param) => shown.push_str(&param.literal()),
                None => {
                    shown.push('$');
                    shown.push_str(number);
                }
            }
            shown.push_str(rest);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_quoted_in_their_places() {
        let call = Call::new(
            "select f($2, $1::text[], $3, $4)",
            [
                Param::Texts(vec!["a".into(), "b'c".into()]),
                Param::text("it's $1"),
                Param::Text(None),
                Param::Bigint(7),
            ],
        );
        assert_eq!(
            call.shown(),
            "select f('it''s $1', array['a', 'b''c']::text[]::text[], null, 7)"
        );
    }
}
